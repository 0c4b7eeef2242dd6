"""How models that were trained on random functions do on small tables, beside common methods."""
