"""The portal's pages of money, for people in a browser."""
