"""Adapters observe a network, ask a method, and gather the tokens: one file per framework and family."""
