"""The model card: what a model is, what it learned from, and how well it does."""

from dicom_node.findings import Proportion, Stage
from worker.manifest import NO_BETTER_THAN_CHANCE, Manifest, describe_gate

TARGETS = {
    Stage.SLN: "metastasis of the sentinel lymph node",
    Stage.NSLN: "metastasis of other nodes when the sentinel node is positive",
}


def render(manifest: Manifest) -> str:
    """Return the card as Markdown; every number comes from the manifest."""
    performance, threshold = manifest.performance, manifest.operating_threshold
    return f"""# {manifest.reference}

**Research use only.** Not a medical device; nothing that it says is a diagnosis.

| | |
|---|---|
| Predicts | {TARGETS[manifest.stage]} ({manifest.stage}) |
| Learned from | {manifest.trained_on} |
| Held-out data | {performance.dataset}, n = {performance.n} |
| **Held-out AUC** | **{performance.auc:.3f}** (95% CI {performance.auc_low:.3f}-\
{performance.auc_high:.3f}, DeLong on the logit scale) |
| Operating threshold | {threshold.value:.4f}: {threshold.how} |
| Sensitivity there | {_percent(performance.sensitivity)} |
| Specificity there | {_percent(performance.specificity)} |
| Network | {manifest.architecture.name}, class activation map of \
{manifest.architecture.map_size}x{manifest.architecture.map_size} |
| Quality gate | {"; ".join(describe_gate(manifest))} |
| DCE phase | {manifest.preprocessing.phase} |
| Preset, seed, threads | {manifest.training.preset}, {manifest.training.seed}, \
{manifest.training.threads} |
| Weights | SHA-256 `{manifest.weights_sha256}` |
| Made | {manifest.created_at:%Y-%m-%d %H:%M} UTC |

## What it cannot do

{_limits(manifest)}{_chance(manifest)}
* A threshold set on one population does not keep its sensitivity on another with a
  different share of metastases.
* The crop is resized without its scale, so the size of a lesion leaks into its
  texture; independence of tumour size cannot be claimed.
* The class activation map shows where evidence came from, in cells of an eighth of
  the crop. It is no segmentation.
"""


def _limits(manifest: Manifest) -> str:
    if "phantom" in manifest.trained_on:
        return (
            "* **It has never seen a patient.** It learned from synthetic phantoms; "
            "its numbers\n  hold for phantoms and say nothing about people."
        )
    return "* It was judged on the data named above and on nothing else."


def _chance(manifest: Manifest) -> str:
    if manifest.performance.beats_chance:
        return ""
    return f"\n* **{NO_BETTER_THAN_CHANCE}.** Do not put it into service."


def _percent(value: Proportion) -> str:
    return (
        f"{value.value:.1%} ({value.k}/{value.n}, "
        f"95% CI {value.low:.1%}-{value.high:.1%}, Wilson)"
    )
