"""Extraction: reads WAT and WARC files of Common Crawl, writes a pool. Start reading at `extract`.

    extract         the verb: extract the files of a crawl, find duplicates, write the pool
    extract_file    one file of a crawl: its records, pages, pairs and keys
    settings        the table [extract] of a recipe, and the lists that it names
    crawl_files     the files of a crawl: paths, globs, lists; a sample of them; their bytes, with retries
    gzip_members    the members of a gzip file, whatever is damaged between them
    warc_records    the records of a file, likewise
    http_response   the body of an archived HTTP response
    html_pages      the images of an HTML page, and their texts
    wat_pages       the images of a page in a WAT
    image_columns   from pages to pairs, in columns of the compiled library
    plain_pairs     the same, one image after the other in Python: the law, and the way without the library
    urls            resolve and clean links; hosts
    filters         why an image gives no pair, and how to add a filter
    opt_outs        what pages say about their use: opt-outs and licences
    languages       the languages of texts
    deduplicate     find pairs that occur more than once, out of core
    pool_writer     the parquet files of a pool

Law: the funnel adds up to the images seen and the further texts taken; the uid of a pair is md5(raw text + resolved
url), as cc2dataset's; of the pairs with one uid the first stays, in the order of files, records and images. No image is
fetched.
"""
