"""The interactive page of one visit: what it shows, and the server that shows it and takes corrections."""
