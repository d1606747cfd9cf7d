"""A real pool with a long tail that every machine can fetch: named icons, with whole sets of them held out.

    python -m training.icons POOL/            # the pool: 290,000 pairs and an evaluation set
    python -m training.icons_study OUT/ --pool POOL/

render      the icons of one set of the package: read as hostile, rendered, named
families    which sets belong together, which are held out, and what their images are called
pool        the pool on the stage runner: sets rendered, then written as tars in the order of uids
"""
