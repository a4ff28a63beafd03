"""The ground that everything stands on: errors, settings, files, locks, progress, tables, figures. Imports nothing else of labkit."""
