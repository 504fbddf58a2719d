"""The paper's tasks of natural language processing, as lengths of input and output.

Source: Fernandez et al. 2025, Table 3 (arXiv 2504.17674). Inputs are those of the data sets in tokens of Llama 3.1;
outputs are fixed.
"""

import msgspec


class Task(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One task and the data set that stands for it.

    Attributes:
        name: of the task.
        data_set: where its inputs come from.
        input_mean: mean length of the inputs, in tokens.
        input_std: its standard deviation.
        input_max: the longest input.
        output_tokens: tokens generated for each input.
        source: of these figures.
    """

    name: str
    data_set: str
    input_mean: float
    input_std: float
    input_max: int
    output_tokens: int
    source: str = "Fernandez et al. 2025, Table 3"

    @property
    def lengths(self) -> dict[str, int]:
        """Input and output tokens of a scenario that stands for the task: the mean input, rounded, and the output.

        Not the bin at or above them: that would make 128 tokens of translation's 50, and 8 output tokens of
        classification's one, a task that is all prefill. Energy grows nearly in proportion with the input, so that
        requests of the mean length take about what requests of all those lengths take. The paper pads inputs to the
        longest; requests of one length need no padding, and what an engine saves by doing without is left out.
        """
        return {"input_tokens": round(self.input_mean), "output_tokens": self.output_tokens}

    def __str__(self) -> str:
        return self.name


TRANSLATION = Task(
    name="translation", data_set="WMT-14", input_mean=49.96, input_std=39.39, input_max=550, output_tokens=64
)
GENERATION = Task(
    name="generation", data_set="Wikitext-2", input_mean=136.89, input_std=93.13, input_max=547, output_tokens=64
)
CLASSIFICATION = Task(
    name="classification", data_set="IMDB", input_mean=292.48, input_std=239.94, input_max=3112, output_tokens=1
)
SUMMARISATION = Task(
    name="summarisation",
    data_set="CNN-DailyMail",
    input_mean=838.49,
    input_std=400.70,
    input_max=2386,
    output_tokens=64,
)

TASKS = (TRANSLATION, GENERATION, CLASSIFICATION, SUMMARISATION)
