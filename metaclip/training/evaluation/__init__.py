"""The parts of `metaclip.training.evaluate`.

sets        a labelled or captioned set, found at a path; its images in files, a zip or tars
prompts     class names in sentences
features    images and texts as vectors of a model
scores      classification by the nearest class name; retrieval of texts by images and of images by texts
results     lines of results, one per task, which later runs continue
"""
