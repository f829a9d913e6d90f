"""The bundled example server."""
