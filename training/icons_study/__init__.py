"""Does balancing help? A pool with a real long tail, one recipe, and one way after another to draw its pairs.

    python -m training.icons POOL/
    python -m training.icons_study OUT/ --pool POOL/

jobs        the runs, their order, and how one is carried out
summary     from lines of results to means, intervals and tables
plot        the tables as pictures
"""
