"""Any set of records as one self-contained HTML page."""
