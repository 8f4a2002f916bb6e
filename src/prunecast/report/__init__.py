"""Tables, figures and one offline page from records; imports no torch."""
