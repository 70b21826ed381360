"""The fleet's Git server: renders the fleet repo into slices, moves them in waves, hears what became of them."""
