"""Taking one person out of the deliveries in the landing folder, of every format. The way in is `taking_out`."""
