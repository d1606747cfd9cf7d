"""Does balancing help? A pool made skewed and dirty on purpose, and one small CLIP trained on it in several ways.

python -m training.balance_study --images cifar10_jpg.zip --size small --out study/

pool        images of labelled classes to a pool of image-text tars: Zipf's classes, many captions, noise and junk
sizes       what a study is made of: tiny (the suite's), small (a processor), gpu
arms        raw, matched, balanced offline and online: curated, trained and evaluated through the product's own doors
summary     means, intervals, differences; the table
plot        the table as SVG
"""
