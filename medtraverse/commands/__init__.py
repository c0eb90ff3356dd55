"""Commands of ``python -m medtraverse``, a module each; `medtraverse.__main__` puts them together."""
