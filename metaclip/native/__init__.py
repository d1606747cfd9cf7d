"""The compiled loops, and what compiles and loads them."""
