"""Ground floor: types, the flat batch, errors, settings, statistics. Imports nothing else of ours."""
