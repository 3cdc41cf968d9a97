"""Audio-visual digits: a corpus of videos whose picture and sound have only the digit in common."""
