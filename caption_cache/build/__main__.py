"""``python -m caption_cache.build``, also under ``accelerate launch -m``."""

import sys

from caption_cache.cli import main

if __name__ == "__main__":
    sys.exit(main(["build", *sys.argv[1:]]))
