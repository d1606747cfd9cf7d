"""The rooms of `metaclip.training.evaluate`: what a task is made of.

images      where the bytes of a set's images are: files, a zip, tars; and how they become tensors
sets        a labelled or captioned set, found at a path
prompts     class names in sentences
zero_shot   classification by the nearest class name
retrieval   the text of an image, the image of a text, among all
results     lines of results, one a task, that a later run takes up
"""
