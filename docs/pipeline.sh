#!/bin/sh
# The pipeline on one page: from nothing to an image, one verb after the other. `make demo` does the same in one process.
#
#     . .venv/bin/activate
#     sh docs/pipeline.sh                                                                   # small: minutes
#     DATASET="--preset paper-54" SPACE=paper SCAN=d30nm-fx25kHz-nd99 sh docs/pipeline.sh   # the paper's data
#
# Stop it where you like and run it again: what is done is not done twice.
set -eu

: "${DATASET:=--preset demo}"      # or --config FILE: scans, physics and splits (docs/simulator.md)
: "${SPACE:=demo}"                 # or a file: what is searched, on what budget (docs/search-spaces.md)
: "${SCAN:=d30.06nm-fx22.13kHz-nd59-s600000}" # a scan of the test split
: "${MODEL:=sm-search}"            # the name that its champions are registered under
: "${SM_SEARCH_HOME:=outputs}"     # where everything lands
export SM_SEARCH_HOME
study=$(basename "$SPACE" .yaml)
data=$SM_SEARCH_HOME/data/$study
high=$SM_SEARCH_HOME/$SCAN-synthesised.mdf
measured=$SM_SEARCH_HOME/$SCAN-vessel.mdf

# 1. Pairs of system matrices, low and high gradient, as MDF files: the training, validation and test scans.
# shellcheck disable=SC2086 # two words
sm-search simulate $DATASET --out "$data"

# 2. The study: training settings under Ray Tune, Optuna and ASHA; in each trial the sampling schedule.
resume=
if [ -e "$SM_SEARCH_HOME/studies/$study/study.json" ]; then resume=--resume; fi
sm-search sweep --space "$SPACE" --data "$data" ${resume:+"$resume"}

# 3. Its best model to champion, if it passes the gate: here, once, the test split is read. Else this script ends.
sm-search promote --study "$study" --data "$data" --name "$MODEL"

# 4. The champion and all baselines on the test split; `--phantom shape` also images with every matrix.
sm-search evaluate --model "models:/$MODEL@champion" --data "$data" --split test \
    --figure "$SM_SEARCH_HOME/comparison.png" --force

# 5. What it is for: a low-gradient matrix in, a high-gradient one out, in physical units.
sm-search synthesize --model "models:/$MODEL@champion" --input "$data/$SCAN/low.mdf" --output "$high" --force
sm-search validate "$high"

# 6. A phantom measured at the high gradient, reconstructed with the synthesised matrix.
# shellcheck disable=SC2086
sm-search simulate $DATASET --phantom vessel --scan "$SCAN" --out "$measured" --force
sm-search reconstruct --sm "$high" --measurement "$measured" --figure "$SM_SEARCH_HOME/vessel.png" --force

# 7. The study as one HTML page; `make ui` shows all runs.
sm-search report --study "$study"
