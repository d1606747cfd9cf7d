"""Extraction: Common Crawl's WAT and WARC files in, a pool out.

    sources     the files of a crawl: paths, globs, lists; a sample of them; bytes, fetched again where that fails
    members     the members of a gzip file, whatever is broken between them
    records     the records of a file, likewise
    http        the body of an HTTP response as it was archived
    pages       the images of a page of HTML; the texts of an image
    wat         the images of a page as a WAT has them
    addresses   where an image is: links resolved, hosts
    language    which language a text is in
    filters     why an image gives no pair
    step        a file to its pairs: the step that engines carry
    dedupe      pairs that stand twice, found out of core
    write       the files of a pool

Law: the funnel adds up to the images seen; the uid of a pair is md5(raw text + resolved url), as cc2dataset's; of pairs
with one uid the first stays, in the order of files, records and images. No image is fetched.
"""
