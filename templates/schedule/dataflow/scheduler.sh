#!/bin/sh
# Deploys workflow.yaml, and a Cloud Scheduler job that executes it every night.
# Run it again after a change of this file, of the workflow or of the arguments.
#
#   PROJECT=example-project LOCATION=europe-west4 ARGUMENTS=arguments.json ./scheduler.sh
#
# SCHEDULE (0 2 * * *), TIME_ZONE (Etc/UTC) and NAME (lemmabeam-nightly) may be given, too.
set -eu

: "${PROJECT:?the project}" "${LOCATION:?region of workflow and schedule}"
: "${ARGUMENTS:?a file like arguments.example.json}"
SCHEDULE=${SCHEDULE:-0 2 * * *}
TIME_ZONE=${TIME_ZONE:-Etc/UTC}
NAME=${NAME:-lemmabeam-nightly}
HERE=$(dirname "$0")

# Both must exist; README.md lists their roles.
SCHEDULER_ACCOUNT=lemmabeam-scheduler@$PROJECT.iam.gserviceaccount.com
WORKFLOW_ACCOUNT=lemmabeam-workflow@$PROJECT.iam.gserviceaccount.com

BODY=$(mktemp)
trap 'rm -f "$BODY"' EXIT
# The argument of an execution is JSON within a string of JSON.
python3 -c 'import json, sys; print(json.dumps({"argument": json.dumps(json.load(sys.stdin))}))' \
    <"$ARGUMENTS" >"$BODY"

gcloud workflows deploy "$NAME" --project="$PROJECT" --location="$LOCATION" \
    --source="$HERE/workflow.yaml" --service-account="$WORKFLOW_ACCOUNT"

if gcloud scheduler jobs describe "$NAME" --project="$PROJECT" --location="$LOCATION" \
    >/dev/null 2>&1; then
    VERB=update
else
    VERB=create
fi
# A call that fails is repeated three times; two executions of a day are one run.
gcloud scheduler jobs "$VERB" http "$NAME" --project="$PROJECT" --location="$LOCATION" \
    --schedule="$SCHEDULE" --time-zone="$TIME_ZONE" --max-retry-attempts=3 \
    --http-method=post --message-body-from-file="$BODY" \
    --uri="https://workflowexecutions.googleapis.com/v1/projects/$PROJECT/locations/$LOCATION/workflows/$NAME/executions" \
    --oauth-service-account-email="$SCHEDULER_ACCOUNT"
