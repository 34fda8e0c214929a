"""The evaluation as one HTML file: tables, plots, films."""
