"""From the bytes of a picture to the square a network takes."""
