"""The `memvec` program, installed as `memvec.cli`.

- `main` finds the command, `cmd_NAME` is one command: its options, one call of the library, its text.
- `options` holds the options that commands share, `parameter_types` checks their strings.
- `output` prints results, JSON and progress; `streams` is the only writer to standard output and error.
- `tables`, `terminal` and `progress_line` lay text out; `render_NAME` holds the longer reports.
- `flag_wording` and `system_errors` translate errors, `exit_codes` lists their codes, `signals` stops the program.
- `schemas/` describes what `--json` prints, one JSON Schema a command.
"""

if __name__ == "cli":
    raise ImportError("import memvec.cli, not cli")
