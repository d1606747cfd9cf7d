"""The parts of `metaclip.training.evaluate`.

sets        a labelled or captioned set, found at a path; its images in files, a zip or tars
hugging_face    sets in the cache of Hugging Face's library
prompts     class names in sentences
features    images and texts as vectors of a model
scores      classification by the nearest class name; retrieval of texts by images and of images by texts
suites      the tasks of a published evaluation, with averages over them
results     lines of results, one per task, which later runs continue
"""
