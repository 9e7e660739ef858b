"""What edgewright itself takes, as networks, images and targets grow tenfold."""
