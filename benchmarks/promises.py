"""What attnorm promises of faults, hostile input, many processes and numbers; and the test that holds each of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Promise:
    """A sentence, and the test that fails when it is not kept.

    Attributes:
        text: the promise, for docs/reliability.md.
        test: "tests/....py::test_name".
    """

    text: str
    test: str

    @property
    def file(self) -> str:
        """The test's file, from the root of the repository."""
        return self.test.partition("::")[0]

    @property
    def name(self) -> str:
        """The test's function."""
        return self.test.partition("::")[2]


RESUME = (
    Promise(
        "A run killed by SIGKILL at any point (before and after a batch, in an evaluation, half way through writing "
        "any file, before a rename), again and again, and started again by the same command, ends with the same "
        "weights, the same history and the same log as one that nobody touched, bit for bit. Classification, "
        "detection, and two processes of which one dies.",
        "tests/training/test_killed.py::test_a_run_killed_at_any_point_ends_as_if_nobody_had",
    ),
    Promise(
        "SIGTERM and SIGUSR1 save at once: after the batch that is being computed, or within an evaluation; no "
        "batch is trained twice.",
        "tests/training/test_resume.py::test_a_signal_saves_at_once_and_the_run_goes_on",
    ),
    Promise(
        "A signal to all processes, as torchrun and SLURM send it, does not kill the readers before the state is "
        "saved.",
        "tests/training/test_resume.py::test_readers_outlive_a_signal_to_all_processes",
    ),
    Promise(
        "A resume state that is damaged is named and passed over for the one before.",
        "tests/training/test_resume.py::test_a_damaged_state_is_named_and_passed_over",
    ),
    Promise(
        "No damage goes unnoticed: a state with a byte changed anywhere, or cut short anywhere, is refused or is "
        "the same state all the same.",
        "tests/training/test_resume.py::test_no_damage_goes_unnoticed",
    ),
    Promise(
        "Where all states are damaged the run is not silently begun anew.",
        "tests/training/test_resume.py::test_where_all_are_damaged_nothing_is_trained_anew_by_itself",
    ),
    Promise(
        "A full disk stops the run with a line that says so; the state before is whole, and once there is room the "
        "run ends as if nothing had been.",
        "tests/training/test_resume.py::test_a_full_disk_stops_the_run_and_leaves_the_state_before",
    ),
    Promise(
        "A state that wants code run, or hashes without end, or unfolds to more than the disk, is refused.",
        "tests/training/test_resume.py::test_a_hostile_state_is_refused_and_nothing_of_it_is_run",
    ),
    Promise(
        "Under FSDP a killed run ends bit for bit, too.",
        "tests/training/test_sharding.py::test_a_killed_run_ends_as_if_nobody_had",
    ),
)

PROCESSES = (
    Promise(
        "Steps of 2 and of 4 processes are those of one with the whole batch: gradients, weights and all running "
        "statistics, those of AN's attention among them, in float64.",
        "tests/training/test_processes.py::test_steps_of_several_processes_are_those_of_the_whole_batch",
    ),
    Promise(
        "Whole runs of 2 processes, and of 4, equal one process's, and evaluate exactly.",
        "tests/training/test_processes.py::test_two_processes_train_as_one_and_evaluate_exactly",
    ),
    Promise(
        "Synchronised norms equal one process for uneven, single and empty shares.",
        "tests/layers/test_synchronised.py::test_synchronised_norms_equal_one_process_with_the_whole_batch",
    ),
    Promise(
        "Every image is evaluated once, in whatever share it falls.",
        "tests/training/test_evaluation_processes.py::test_several_processes_evaluate_as_one",
    ),
    Promise(
        "The number of reading processes changes no weight.",
        "tests/training/test_processes.py::test_weights_do_not_depend_on_the_number_of_workers",
    ),
    Promise(
        "Weights under FSDP are those under DDP.",
        "tests/training/test_sharding.py::test_the_weights_are_those_of_ddp",
    ),
    Promise(
        "A process that fails ends the job promptly; its reason is on stderr and in torchrun's summary.",
        "tests/training/test_dying_processes.py::test_a_failing_rank_ends_the_job_with_its_reason",
    ),
    Promise(
        "A process that is killed ends the job; no process and no reader is left.",
        "tests/training/test_dying_processes.py::test_a_killed_rank_ends_the_job",
    ),
    Promise(
        "When torchrun itself is killed, its processes and their readers end by themselves.",
        "tests/training/test_dying_processes.py::test_processes_end_when_torchrun_is_killed",
    ),
    Promise(
        "A process that hangs is not waited for without end.",
        "tests/training/test_processes.py::test_a_process_that_hangs_is_not_waited_for_without_end",
    ),
)

SCALE = (
    Promise(
        "With `shard_window` every image comes at most once in an epoch over all processes, in equal numbers, from "
        "no more than so many shards at a time.",
        "tests/data/test_shards.py::test_an_epoch_by_windows",
    ),
    Promise(
        "A run that reads shards goes on within a shard and exactly at its end.",
        "tests/data/test_shards.py::test_resume_within_a_shard_and_at_its_end",
    ),
    Promise(
        "Training on shards in 2 processes, killed, ends bit for bit.",
        "tests/training/test_shard_runs.py::test_a_killed_run_reads_the_rest_of_its_shards",
    ),
    Promise(
        "A shard that is cut off or damaged is refused by name and never read short.",
        "tests/data/test_shards.py::test_a_damaged_shard_is_refused_and_never_shortened",
    ),
    Promise(
        "Four processes that read shards and are killed read exactly their order; their memory is measured.",
        "tests/benchmarks/test_shards.py::test_killed_in_mid_epoch_every_image_is_read_once",
    ),
    Promise(
        "The script for SLURM, told that its time is up, goes on as one job that had time.",
        "tests/test_scale_docs.py::test_a_job_whose_time_was_up_ends_as_one_that_had_time",
    ),
)

IMAGES = (
    Promise(
        "An image of any listed format and kind (16 bits, palettes, CMYK, animations, EXIF's rotations) is read "
        "upright, in RGB, with the right pixels, whatever its name says.",
        "tests/data/test_hostile_images.py::test_sound_images_are_read_whatever_their_name",
    ),
    Promise(
        "A file cut short at any 64th byte gives all of its pixels or an error by name.",
        "tests/data/test_hostile_images.py::test_files_cut_short_give_all_of_their_pixels_or_an_error",
    ),
    Promise(
        "Bombs end in one line, or are read, within 20 s and 128 MiB and 100 times the file.",
        "tests/data/test_hostile_images.py::test_bombs_do_not_go_off",
    ),
    Promise(
        "Reading takes at most 24 bytes for each of at most 89,478,485 pixels.",
        "tests/data/test_hostile_images.py::test_memory_by_pixel",
    ),
    Promise(
        "Odd files from Pillow's collection are read or refused by name.",
        "tests/data/test_hostile_images.py::test_odd_images_are_read_or_reported",
    ),
    Promise(
        "Files changed at random are read or refused in one line.",
        "tests/data/test_hostile_images.py::test_edited_files_are_read_or_refused",
    ),
    Promise(
        "Only promised formats are opened, never one that starts another program.",
        "tests/data/test_hostile_images.py::test_formats_that_are_not_promised_are_not_opened",
    ),
    Promise(
        "Bad files of a folder are named, skipped, counted and limited in `train`, `eval` and `predict`.",
        "tests/training/test_bad_images.py::test_evaluation_counts_them",
    ),
)

ANNOTATIONS = (
    Promise(
        "A COCO file with any one value replaced by each of many wrong ones, or left out, is refused with its place "
        "named, or read exactly as pycocotools reads it.",
        "tests/data/test_hostile_annotations.py::test_every_value_in_turn_is_replaced",
    ),
    Promise(
        "JSON bombs, and files that are no JSON, are refused within 20 s and 32 MiB and 40 times the file.",
        "tests/data/test_hostile_annotations.py::test_json_bombs_and_files_that_are_no_json",
    ),
    Promise(
        "Masks that would fill the memory are refused by name.",
        "tests/data/test_hostile_annotations.py::test_masks_that_would_fill_the_memory",
    ),
    Promise(
        "Annotation files changed at random are read or refused in one line.",
        "tests/data/test_hostile_annotations.py::test_changed_files_are_read_or_refused",
    ),
    Promise(
        "Compressed masks of any content are refused, or drawn as pycocotools draws them.",
        "tests/data/test_hostile_annotations.py::test_compressed_runs_are_those_of_pycocotools",
    ),
    Promise(
        "Files of results: any one value replaced.",
        "tests/detection/test_hostile_results.py::test_every_value_in_turn_is_replaced",
    ),
    Promise(
        "Files of results changed at random are measured or refused in one line.",
        "tests/detection/test_hostile_results.py::test_changed_files_are_measured_or_refused",
    ),
)

CHECKPOINTS = (
    Promise(
        "Nothing in the code can run what it reads: no open unpickler, no loader of YAML objects, no unpacking to "
        "the disk.",
        "tests/test_no_pickle.py::test_the_code_runs_no_file",
    ),
    Promise(
        "No command that takes a checkpoint runs a pickle in it.",
        "tests/training/test_hostile_checkpoints.py::test_no_door_of_the_command_line_runs_a_pickle",
    ),
    Promise(
        "What is no file (a pipe, a device, links in a circle) is refused at once.",
        "tests/training/test_hostile_checkpoints.py::test_what_is_no_file",
    ),
    Promise(
        "A checkpoint cut off anywhere is refused in one line.",
        "tests/training/test_hostile_checkpoints.py::test_cut_off_anywhere",
    ),
    Promise(
        "So are headers that claim what the file does not have.",
        "tests/training/test_hostile_checkpoints.py::test_absurd_headers",
    ),
    Promise(
        "Wrong values in every field of a header are refused, or loaded as what they say.",
        "tests/training/test_hostile_checkpoints.py::test_wrong_values_in_every_field_of_our_header",
    ),
    Promise(
        "A header cannot ask for a network that fills the memory.",
        "tests/training/test_hostile_checkpoints.py::test_networks_that_would_fill_the_memory",
    ),
    Promise(
        "Headers changed at random are refused in one line, or load.",
        "tests/training/test_hostile_checkpoints.py::test_any_damage_to_a_header_is_refused_or_harmless",
    ),
    Promise(
        "Pickles of released checkpoints changed at random are refused, or read as data.",
        "tests/training/test_hostile_checkpoints.py::test_any_damage_to_a_pickle_is_refused_or_harmless",
    ),
)

RECIPES = (
    Promise(
        "Hostile recipes (tags that run code, bombs of aliases, deep nesting, keys that stand twice) are refused in "
        "one line with file, line and key.",
        "tests/test_hostile_recipes.py::test_a_hostile_recipe_is_refused",
    ),
    Promise(
        "Wrong values in every field are refused, or mean what they say.",
        "tests/test_hostile_recipes.py::test_wrong_types_in_every_field",
    ),
    Promise(
        "Recipes changed at random are refused in one line, or mean something.",
        "tests/test_hostile_recipes.py::test_any_recipe_is_refused_or_means_something",
    ),
    Promise(
        "Archives of data: members that leave the folder, links, devices, lies about sizes and bombs are refused, "
        "and nothing is written.",
        "tests/data/test_hostile_archives.py::test_a_hostile_archive_of_cifar_is_refused",
    ),
    Promise(
        "Tars and shards of images likewise.",
        "tests/data/test_hostile_archives.py::test_hostile_tars_of_images",
    ),
    Promise(
        "Pickled batches likewise.",
        "tests/data/test_hostile_archives.py::test_a_hostile_batch_is_refused",
    ),
)

NUMBERS = (
    Promise(
        "Whatever shape, stride, dtype, option or mode comes in, the fast layer gives float64's definition up to "
        "rounding: outputs, running statistics, every gradient; never NaN where that is finite and can be "
        "represented.",
        "tests/layers/test_fuzz.py::test_the_fast_path_is_the_definition",
    ),
    Promise(
        "So do the Triton kernels (here in Triton's interpreter).",
        "tests/layers/test_fuzz.py::test_triton_is_the_definition",
    ),
    Promise(
        "Training stays finite on constant, zero and far-off images in float32, bfloat16 and scaled float16.",
        "tests/layers/test_numbers.py::test_training_stays_finite",
    ),
    Promise(
        "So does the smallest network of every family.",
        "tests/layers/test_numbers.py::test_every_family_stays_finite",
    ),
    Promise(
        "A loss that is not finite stops the run at that batch, and the files stay as they were.",
        "tests/training/test_numbers.py::test_the_step_of_a_bad_loss_is_named_and_nothing_is_written",
    ),
    Promise(
        "In one process it stops all.",
        "tests/training/test_numbers.py::test_a_bad_loss_in_one_process_stops_all",
    ),
    Promise(
        "Infinite gradients under a loss scale are a step left out, no divergence.",
        "tests/training/test_numbers.py::test_infinite_gradients_under_a_loss_scale_are_no_divergence",
    ),
    Promise(
        "After 10,000 updates the running statistics are float64's to a few roundings, as close as BatchNorm's own.",
        "tests/layers/test_drift.py::test_running_statistics_do_not_drift",
    ),
    Promise(
        "So is the average of the weights.",
        "tests/layers/test_drift.py::test_the_average_of_weights_does_not_drift",
    ),
)

WATCHING = (
    Promise(
        "The log's numbers are those of the same training written out in plain PyTorch.",
        "tests/training/test_watch.py::test_the_numbers_are_those_of_the_training_written_out",
    ),
    Promise(
        "However a run was stopped, each batch and each epoch is told once.",
        "tests/training/test_watch.py::test_each_batch_is_told_once_however_a_run_was_stopped",
    ),
    Promise(
        "TensorBoard shows each epoch once.",
        "tests/training/test_watch.py::test_tensorboard_shows_each_epoch_once_however_a_run_was_stopped",
    ),
    Promise(
        "The share of time that reading takes is exact for known times of reading and computing.",
        "tests/training/test_fetching.py::test_the_share_is_that_of_reading_and_goes_on_over_a_stop",
    ),
    Promise(
        "A dry run writes nothing, and what it says of files is what the run then writes.",
        "tests/training/test_dry_run.py::test_the_numbers_are_those_of_the_run",
    ),
    Promise(
        "What is in the way of a run is said by the dry run in one line, with exit code 1.",
        "tests/training/test_dry_run.py::test_what_is_in_the_way_exits_with_1_and_one_line",
    ),
)

# By the names of the markers in docs/reliability.md.
PROMISES = {
    "resume": RESUME,
    "processes": PROCESSES,
    "scale": SCALE,
    "images": IMAGES,
    "annotations": ANNOTATIONS,
    "checkpoints": CHECKPOINTS,
    "recipes": RECIPES,
    "numbers": NUMBERS,
    "watching": WATCHING,
}
