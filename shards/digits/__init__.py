"""Audio-visual digits: a corpus of videos whose picture and sound share nothing but the digit."""
