# One run of the gate: annotations, a summary, outputs; its exit status is the gate's.
# Reads MODEL or STUDY and STORAGE, SPEC, OUTPUT, and what GitHub gives every step.
set -u

mkdir -p -- "$OUTPUT" || exit 2
report="$OUTPUT/gate.json"

words=(--spec "$SPEC" --report "$report" --junit "$OUTPUT/gate.xml")
words+=(--markdown "$OUTPUT/gate.md" --attestation "$OUTPUT/gate.intoto.json")
if [ -n "$MODEL" ]; then words=("${words[@]}" -- "$MODEL"); fi
if [ -n "$STUDY" ]; then words=(--study "$STUDY" --storage "$STORAGE" "${words[@]}"); fi

code=0
rlhf-tune gate "${words[@]}" || code=$?

if [ -f "$report" ]; then
  python -m rlhf_tune.gate.annotations "$report" --file "$SPEC" || code=$((code ? code : 70))
  cat -- "$OUTPUT/gate.md" >> "$GITHUB_STEP_SUMMARY"
  python - "$report" >> "$GITHUB_OUTPUT" <<'PYTHON' || code=$((code ? code : 70))
import json, sys
document = json.load(open(sys.argv[1], "rb"))
print(f"verdict={document['verdict']}")
print(f"sha256={document['artifact']['sha256'] or ''}")
PYTHON
else
  echo "::error title=rlhf-tune gate::no report was written; the log says why"
  code=$((code ? code : 70))
fi
printf 'exit-code=%d\n' "$code" >> "$GITHUB_OUTPUT"
printf 'report=%s\n' "${report//[$'\r\n']/}" >> "$GITHUB_OUTPUT"
exit "$code"
