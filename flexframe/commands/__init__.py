"""The command line's commands by theme. `flexframe.cli` puts them together; none imports torch until it runs."""
