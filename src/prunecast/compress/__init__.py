"""From a budget to the best artefact: the search of the verb `compress`."""
