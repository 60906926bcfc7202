"""The machinery of the catalogue: discovery, proof, guard and rendering."""
