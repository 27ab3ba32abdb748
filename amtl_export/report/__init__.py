"""What a person sees: tables, charts, plots."""
