"""Features that somebody else computed: their files, the corpus that is made of them, and how a run takes them over."""
