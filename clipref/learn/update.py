"""Write what the cells of chapters give into the chapters: `python -m clipref.learn.update [--slow] [N ...]`.

For a checkout. What the text claims of the figures isn't rewritten: hidden cells assert it, and fail here.
"""

from __future__ import annotations

import argparse

from .chapters import chapter, chapters, run, unsupported_numbers


def main() -> None:
    """Run, write, and say what has changed and what nothing supports."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("chapters", nargs="*", metavar="N")
    parser.add_argument("--slow", action="store_true", help="run the cells that take minutes, too")
    args = parser.parse_args()
    for one in [chapter(key) for key in args.chapters] or chapters():
        ran = run(one, args.slow)
        one.path.write_text(ran.markdown, encoding="utf-8")
        for line in [*ran.wrong, *unsupported_numbers(one)]:
            print(line)
        print(f"{one.name}: {len(ran.wrong)} changed")


if __name__ == "__main__":
    main()
