"""What an implementation computed, in order: the names of the points at which a value can be tapped."""
