"""The Shop: customers start orders, upload 3D models and submit them."""
