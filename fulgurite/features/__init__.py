"""Tables of features: read, cleaned, put into categories, analysed, and given bits category by category."""
