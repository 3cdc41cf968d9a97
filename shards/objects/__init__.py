"""Object stores: buckets, a cache of what was read from them, and corpora whose tars lie in them."""
