"""From a scanner image to what a network takes: bias, registration, template space, anatomy, intensities."""
