"""Downloaded images: what they are, which of them are left out, and why.

inspect      the verb: tars in, a table of their images and a subset out
settings     what determines the subset: filters, duplicates, evaluation sets
images       the first stage: one row for each sample of a tar
hashes       the two perceptual hashes of an image
select       the second stage: which images stay
select_step  its steps on a tar, or on a part of what is compared between tars
hooks        marks of other tools: scores, functions
filters      filters that look at one image at a time
duplicates   images with the same bytes or the same hashes, and clusters of those that are near
evaluation_hashes    hashes of evaluation sets, and images near them
near         all pairs of near hashes
"""
