"""The parts of `metaclip.training.evaluate`.

evaluation_set  what a set is: images, and labels, captions or cues
sets            a set found at a path, in a folder or a zip
tar_sets        a set in CLIP_benchmark's tars
hugging_face    a set in the cache of Hugging Face's library
prompts         class names in sentences
features        images and texts as vectors of a model
scores          classification by the nearest class name; retrieval of texts by images and of images by texts
suites          the tasks of a published evaluation, with averages over them
results         lines of results, one per task, which later runs continue
"""
