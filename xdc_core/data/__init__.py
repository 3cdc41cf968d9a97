"""How clips, features and labels reach the method."""
