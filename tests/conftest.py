"""Environment of the tests: a CPU split into four logical devices."""

import collections
import gc
import os

os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import pytest

from tests import commands
from tf_instdisc.method.encoders import resnet
from tf_instdisc.training.strategy import mirrored_cpus, split_cpu

# Before anything touches the device; strategies of the tests take two or four.
split_cpu(4)

# The graphs of thousands of tests make each full collection take a second.
gc.freeze()
gc.set_threshold(50_000, 20, 50)


# Files of tests that train, kill, or start processes many times over.
_SLOW = {
    "test_benchmarks",
    "test_browse",
    "test_cli",
    "test_damage",
    "test_data_flags",
    "test_detection",
    "test_duplicates",
    "test_embed_beam",
    "test_embed_folder",
    "test_embedding",
    "test_encoder_file",
    "test_evaluate_command",
    "test_evaluation",
    "test_example_scripts",
    "test_examples",
    "test_exit_statuses",
    "test_export",
    "test_export_bytes",
    "test_export_cli",
    "test_export_folder",
    "test_fine_tuning",
    "test_finish",
    "test_first_format",
    "test_folder_defaults",
    "test_hostile_checkpoints",
    "test_hostile_names",
    "test_hosts",
    "test_index_command",
    "test_initial_encoder",
    "test_instdisc_command",
    "test_interrupt",
    "test_kept_labels",
    "test_keras_habits",
    "test_kills",
    "test_load_elsewhere",
    "test_lock",
    "test_matrix_convolution",
    "test_neighbors_command",
    "test_notebook",
    "test_other_networks",
    "test_partitioned_index",
    "test_plain_install",
    "test_plan",
    "test_precision",
    "test_quiet_start",
    "test_readme",
    "test_recipes",
    "test_remote",
    "test_remote_runs",
    "test_replicas",
    "test_report",
    "test_reproduce",
    "test_resume",
    "test_serving_client",
    "test_sharded_bank",
    "test_shipped",
    "test_step_logs",
    "test_update",
    "test_voc",
}


# Prefixes of the names of slow tests that repeat, with other values or in whole
# processes, what cheaper tests check.
_EXHAUSTIVE = (
    "test_auto_precision::test_a_run_records",
    "test_benchmarks",
    "test_browse::test_the_command",
    "test_cli::test_a_folder_of_classes_with_a_bad_file",
    "test_cli::test_a_terminal",
    "test_cli::test_changed_rate",
    "test_cli::test_the_written_flags",
    "test_convert::test_a_converted_run_is_exported",
    "test_convert_authors::test_cifars_checkpoint_becomes_a_run[module",
    "test_convert_authors::test_cifars_checkpoint_becomes_a_run[weights]",
    "test_convert_authors::test_their_other_cifar_networks[resnet50",
    "test_convert_authors::test_widened_networks_keep_their_stem[basic-sizes1-16",
    "test_convert_authors::test_widened_networks_keep_their_stem[basic-sizes1-2",
    "test_convert_authors::test_widened_networks_keep_their_stem[bottleneck-sizes0-16",
    "test_convert_authors::test_widened_networks_keep_their_stem[bottleneck-sizes0-8",
    "test_damage::test_damaged_features",
    "test_data::test_jpeg_crops_equal_crops_of_the_whole_image",
    "test_data_flags::test_an_evaluation_reads_what_its_flags_say[cache",
    "test_data_flags::test_pictures_of_a_run_are_read_by_its_keys[none",
    "test_decode::test_thin_images_are_cheap[JPEG-1-60000",
    "test_decode::test_thin_images_are_cheap[PNG-1-60000",
    "test_decode::test_thin_images_are_cheap[PNG-2-20000",
    "test_decode::test_thin_images_are_cheap[PNG-3000",
    "test_detection::test_both_detectors_learn",
    "test_detection::test_frozen_layers",
    "test_documented_commands::test_a_recipe",
    "test_documented_commands::test_tensorboard",
    "test_documented_commands::test_the_commands_of_a_page",
    "test_documented_commands::test_the_plan",
    "test_documented_commands::test_two_hosts",
    "test_duplicates::test_a_handful_of_images[1",
    "test_duplicates::test_a_handful_of_images[3",
    "test_duplicates::test_a_handful_of_images[4",
    "test_duplicates::test_a_handful_of_images[5",
    "test_duplicates::test_images_of_a_test_folder",
    "test_duplicates::test_planted_duplicates_are_found_by_default[0",
    "test_embed_beam::test_a_killed_pipeline",
    "test_embed_beam::test_an_outage_ends_the_pipeline_until_it_is_over[pro",
    "test_embed_beam::test_rows_are_those_of_one_machine[two",
    "test_embed_beam::test_the_guide",
    "test_embed_beam::test_the_output_may_be_in_a_bucket",
    "test_embed_folder::test_a_model_that_fails",
    "test_embed_folder::test_gpus_take_turns",
    "test_embedding::test_protocols_measure_the_same_on_two_gpus[knn",
    "test_embedding::test_protocols_measure_the_same_on_two_gpus[svm",
    "test_encoder_file::test_files_hold_no_argument",
    "test_encoders::test_file_loads_without_the_package[mixed_bfloat16-tensorflow",
    "test_encoders::test_gradients_of_a_narrow_encoder",
    "test_evaluate_command::test_a_moved_folder",
    "test_evaluate_command::test_a_new_file",
    "test_evaluate_command::test_a_run_without_labels",
    "test_evaluate_command::test_a_second_evaluation",
    "test_evaluate_command::test_an_unfinished_run",
    "test_evaluate_command::test_fewer_images_than_folds",
    "test_evaluate_command::test_fewer_images_than_neighbors",
    "test_evaluate_command::test_files_that_moved",
    "test_evaluate_command::test_one_class_is_refused",
    "test_evaluate_command::test_other_classes",
    "test_evaluate_command::test_other_test_classes",
    "test_evaluate_command::test_several_protocols",
    "test_evaluate_command::test_test_images_without_labels",
    "test_evaluation::test_knn_takes_the_bank",
    "test_evaluation::test_layers_of_others",
    "test_evaluation::test_linear_classifier_agrees_with_scikit_learn",
    "test_evaluation::test_protocols_share_one_pass",
    "test_evaluation::test_results_of_an_encoder",
    "test_evaluation::test_svm_of_two_classes",
    "test_evaluation::test_untrained_network",
    "test_example_scripts::test_ask_a_server",
    "test_example_scripts::test_clean_a_dataset",
    "test_example_scripts::test_fine_tune",
    "test_example_scripts::test_neighbors_of",
    "test_example_scripts::test_own_backbone",
    "test_examples::test_the_example_of_a_public_name_runs[Augmentation",
    "test_examples::test_the_example_of_a_public_name_runs[FineTuneOptions",
    "test_examples::test_the_example_of_a_public_name_runs[Instance",
    "test_examples::test_the_example_of_a_public_name_runs[KNN",
    "test_examples::test_the_example_of_a_public_name_runs[LinearOptions",
    "test_examples::test_the_example_of_a_public_name_runs[Run]",
    "test_examples::test_the_example_of_a_public_name_runs[SVMOptions",
    "test_examples::test_the_example_of_a_public_name_runs[TransferOptions",
    "test_examples::test_the_example_of_a_public_name_runs[embed",
    "test_examples::test_the_example_of_a_public_name_runs[evalua",
    "test_examples::test_the_example_of_a_public_name_runs[save_run",
    "test_examples::test_the_example_of_a_public_name_runs[steps",
    "test_examples::test_the_example_of_a_public_name_runs[train",
    "test_examples::test_the_python_of_a_page",
    "test_export::test_a_killed_export",
    "test_export::test_an_exported_model_is_browsed",
    "test_export::test_bfloat16_stays_close",
    "test_export::test_every_signature_in_a_session",
    "test_export_bytes::test_a_batch_may_be_empty[float32-error",
    "test_export_bytes::test_a_batch_may_be_empty[int8",
    "test_export_cli::test_all_options",
    "test_export_folder::test_the_smoke_client_finds",
    "test_fine_tuning::test_a_class_without",
    "test_fine_tuning::test_a_subset_holds_its_images_under_new_ids[folder-0",
    "test_fine_tuning::test_a_subset_holds_its_images_under_new_ids[folder-100",
    "test_fine_tuning::test_a_training_repeats",
    "test_fine_tuning::test_fine_tuning_learns",
    "test_fine_tuning::test_training_begins_with",
    "test_finish::test_a_run_that_only_has_a_checkpoint",
    "test_finish::test_a_saved_model_is_never",
    "test_finish::test_an_updated_run_is_not_trained_on",
    "test_finish::test_each_image_is_its_own_first_neighbor[folder]",
    "test_finish::test_each_image_is_its_own_first_neighbor[memory",
    "test_finish::test_knn_of_encoded",
    "test_first_format::test_a_damaged_flagfile",
    "test_first_format::test_commands_open_it",
    "test_first_format::test_it_goes_on",
    "test_folder_defaults::test_a_folder_alone",
    "test_folder_listing::test_a_damaged_memory_is_made_anew[cut",
    "test_folder_listing::test_a_damaged_memory_is_made_anew[empty",
    "test_folder_listing::test_a_damaged_memory_is_made_anew[other",
    "test_health::test_tensorboard",
    "test_health::test_the_command_warns",
    "test_hostile_images::test_a_large_honest_png_is_decoded[10000000",
    "test_hostile_images::test_a_large_honest_png_is_decoded[65536-True",
    "test_hostile_images::test_a_large_honest_png_is_decoded[700-False",
    "test_hostile_images::test_a_png_must_end_with_its_last_row[1000000000",
    "test_hostile_images::test_no_image_costs_more_than_an_honest_one[zTXt",
    "test_hostile_names::test_lines_of_neighbors",
    "test_hostile_server::test_a_slow_server_has_until_the_deadline[headers",
    "test_hostile_server::test_a_slow_server_has_until_the_deadline[one header",
    "test_hostile_server::test_a_slow_server_has_until_the_deadline[the ",
    "test_hosts::test_a_killed_worker",
    "test_hosts::test_sigterm",
    "test_hosts::test_the_command_on_two_hosts",
    "test_hosts::test_three_workers",
    "test_index_command::test_an_index_of_earlier_rows",
    "test_index_command::test_neighbors_in_an_index_of",
    "test_initial_encoder::test_data_that_grew",
    "test_initial_encoder::test_no_epochs_encode",
    "test_instdisc_command::test_a_recipe_trains_by_its_name",
    "test_interrupt::test_a_command_ends_with_one_line[import tensorflow",
    "test_kept_labels::test_a_restart_does_not_read_the_records_for_the_classes[feature0",
    "test_kept_labels::test_damaged_labels_are_read_and_kept_anew[cut",
    "test_kept_labels::test_damaged_labels_are_read_and_kept_anew[empty",
    "test_kept_labels::test_damaged_labels_are_read_and_kept_anew[unlisted",
    "test_keras_calls::test_a_model_saved_within_an_accumulation_goes_on[1",
    "test_keras_calls::test_a_model_saved_within_an_accumulation_goes_on[2-model.w",
    "test_keras_calls::test_data_sets_of_many_forms_are_the_same_to_fit[0",
    "test_keras_calls::test_data_sets_of_many_forms_are_the_same_to_fit[3",
    "test_keras_calls::test_data_sets_of_many_forms_are_the_same_to_fit[5",
    "test_keras_calls::test_evaluate_gives_the_loss_and_writes_nothing[1-nce",
    "test_keras_calls::test_evaluate_gives_the_loss_and_writes_nothing[1-softmax",
    "test_keras_calls::test_evaluate_gives_the_loss_and_writes_nothing[2-info_nce",
    "test_keras_calls::test_evaluate_gives_the_loss_and_writes_nothing[2-parametric",
    "test_keras_calls::test_evaluate_gives_the_loss_and_writes_nothing[2-softmax",
    "test_keras_calls::test_sums_of_other_weights_are_forgotten[load",
    "test_keras_calls::test_weights_hold_bank_z_and_step[2-{'bank_dtype': 'bfl",
    "test_keras_calls::test_weights_hold_bank_z_and_step[2-{'bank_dtype': 'fl",
    "test_keras_calls::test_weights_hold_bank_z_and_step[2-{'objective",
    "test_keras_calls::test_weights_hold_bank_z_and_step[2-{}",
    "test_keras_habits::test_forms_of_encoders_are_the_same_to_training[1-Seq",
    "test_keras_habits::test_forms_of_encoders_are_the_same_to_training[2-Seq",
    "test_keras_habits::test_forms_of_encoders_are_the_same_to_training[2-dict",
    "test_keras_habits::test_forms_of_encoders_are_the_same_to_training[2-list",
    "test_keras_habits::test_replicas_clip_the_gradient_of_the_batch[global]",
    "test_keras_habits::test_replicas_clip_the_gradient_of_the_batch[norm",
    "test_keras_habits::test_replicas_clip_the_gradient_of_the_batch[scaled_value",
    "test_keras_habits::test_replicas_clip_the_gradient_of_the_batch[value",
    "test_kills::test_evaluation",
    "test_kills::test_processes_that_are_killed",
    "test_kills::test_reproduce",
    "test_kills::test_results_of_training[True]",
    "test_kills::test_the_best_encoder",
    "test_kills::test_update[updated",
    "test_load_elsewhere::test_embeddings_are_the_same_on_each_backend[tensorflow",
    "test_load_elsewhere::test_tflite_embeds_alike[int8",
    "test_load_elsewhere::test_the_guide_uses_the_exported_model",
    "test_load_elsewhere::test_the_readme_fine_tunes",
    "test_matrix_convolution::test_replicas_and_xla",
    "test_neighbors_command::test_many_queries_are_paged",
    "test_neighbors_command::test_the_command_writes_pictures",
    "test_notebook::test_the_quickstart_runs",
    "test_other_networks::test_files_load_without_the_package[tensorflow",
    "test_other_networks::test_parameters_at_full_width",
    "test_other_networks::test_training_lowers_the_loss",
    "test_partitioned_index::test_an_exported_model",
    "test_plain_install::test_near_duplicates",
    "test_plain_install::test_neighbors_are_printed",
    "test_plan::test_activations",
    "test_precision",
    "test_quiet_start::test_a_locale",
    "test_readme::test_the_guide_trains",
    "test_readme::test_the_readme_runs_a_whole_life",
    "test_recipes::test_a_recipe_trains[cifar10",
    "test_recipes::test_a_recipe_trains[digits",
    "test_recipes::test_a_recipe_trains[imagenet_alexnet",
    "test_recipes::test_a_recipe_trains[imagenet_resnet50",
    "test_recipes::test_a_recipe_trains[imagenet_vgg16",
    "test_recipes::test_a_recipe_trains[photos",
    "test_remote::test_a_kill_leaves_the_old_or_the_new_run[s3",
    "test_remote_flags::test_commands",
    "test_remote_runs::test_an_update",
    "test_remote_runs::test_the_commands",
    "test_remote_runs::test_the_whole_life",
    "test_remote_runs::test_training_goes_on",
    "test_remote_runs::test_two_hosts",
    "test_replicas::test_a_smaller_last_batch_through",
    "test_replicas::test_a_users_smaller_last_batch[dictionaries",
    "test_replicas::test_a_users_smaller_last_batch[pairs-16",
    "test_replicas::test_a_users_smaller_last_batch[pairs-3-info_nce",
    "test_replicas::test_a_users_smaller_last_batch[pairs-3-parametric",
    "test_replicas::test_a_users_smaller_last_batch[pairs-3-softmax",
    "test_replicas::test_a_users_smaller_last_batch[weights",
    "test_replicas::test_replicas_equal_one_device[info_nce-per_example-0.0-3-float64",
    "test_replicas::test_replicas_equal_one_device[info_nce-shared-2.0-1",
    "test_replicas::test_replicas_equal_one_device[nce-per_example-2.0-1-float64",
    "test_replicas::test_replicas_equal_one_device[nce-shared-0.0-3-float32",
    "test_replicas::test_replicas_equal_one_device[parametric-shared-0.0-1-float64",
    "test_replicas::test_replicas_equal_one_device[softmax-shared-2.0-3-float64",
    "test_replicas::test_with_ids_that_stand_more_than_once_in_a_batch[4",
    "test_replicas::test_with_synchronized_or_frozen_batch_norm[float32",
    "test_replicas::test_with_synchronized_or_frozen_batch_norm[float64-frozen",
    "test_report::test_a_run_without",
    "test_report::test_a_thousand_classes",
    "test_report::test_in_a_browser[desk",
    "test_reproduce::test_a_stopped_table",
    "test_reproduce::test_layers_are_measured",
    "test_reproduce::test_networks_are_measured",
    "test_reproduce::test_the_command_trains_what_is_missing",
    "test_resume::test_a_full_disk",
    "test_resume::test_a_read_only_directory",
    "test_resume::test_a_run_of_an_older_version_goes_on[mixed",
    "test_resume::test_another_batch_size",
    "test_resume::test_damaged_checkpoints_are_named",
    "test_resume::test_kill_9",
    "test_serving_client::test_labels_lead",
    "test_serving_client::test_load_with",
    "test_serving_client::test_tls",
    "test_sharded_bank::test_a_step_equals_loops[4-",
    "test_sharded_bank::test_training_equals_a_bank_on_each_device",
    "test_shipped::test_a_run_can_begin_with_it[16",
    "test_shipped::test_other_weights",
    "test_step::test_two_steps_equal_the_formulas[float32-1000",
    "test_step_logs::test_an_epoch_of_one_step",
    "test_step_logs::test_no_step_waits_for_a_value[accumulated-2",
    "test_step_logs::test_no_step_waits_for_a_value[each",
    "test_step_logs::test_tensorboard",
    "test_step_logs::test_values_are_read",
    "test_tfds_forms::test_images_are_read_as_their_values[Image-float01",
    "test_tfds_forms::test_images_are_read_as_their_values[Image-uint8-1",
    "test_tfds_forms::test_images_are_read_as_their_values[Tensor-float255",
    "test_tfds_forms::test_images_of_different_sizes_are_trained_on[Image-uint16",
    "test_tfds_forms::test_images_of_different_sizes_are_trained_on[Image-uint8",
    "test_tfds_forms::test_knn_of_another_label",
    "test_update::test_a_file_written",
    "test_update::test_a_killed_update",
    "test_update::test_an_image_outside",
    "test_update::test_another_run_directory",
    "test_update::test_new_images_leave",
    "test_update::test_only_new_and_changed",
    "test_update::test_only_new_images",
    "test_update::test_the_command_compares",
    "test_update::test_training_goes_on",
)


def pytest_configure(config):
    # Most graphs run once or twice, for which optimizing them takes longer than
    # running them. Commands in processes of their own still optimize theirs.
    if "not exhaustive" in config.option.markexpr:
        os.environ[commands.PLAIN_GRAPHS] = "1"
        commands.use_plain_graphs()


def pytest_collection_modifyitems(items):
    # Both processes end at about the same time if what takes long begins first.
    files = collections.Counter(item.path.stem for item in items)
    items.sort(
        key=lambda item: (item.path.stem not in _SLOW, -files[item.path.stem])
    )
    for item in items:
        name = f"{item.path.stem}::{item.name}"
        if item.path.stem in _SLOW:
            item.add_marker(pytest.mark.slow)
        if name.startswith(_EXHAUSTIVE):
            item.add_marker(pytest.mark.exhaustive)


@pytest.fixture(scope="session")
def two_replicas():
    """One strategy for all tests."""
    return mirrored_cpus(["CPU:0", "CPU:1"])


@pytest.fixture(scope="module")
def shallow_resnet18():
    """Halves the blocks of ResNet-18, for tests of what is around it."""
    with pytest.MonkeyPatch.context() as patch:
        shallow = ("basic", (1, 1, 1, 1))
        patch.setitem(resnet.STAGES, "resnet18", shallow)
        yield


@pytest.fixture(scope="session")
def small_run(tmp_path_factory):
    """A run with a small untrained encoder; nobody writes into it."""
    from tests import exported

    path = tmp_path_factory.mktemp("small_run") / "run"
    return exported.make_run(path, width=4)


@pytest.fixture(scope="session")
def small_model_dir(small_run, tmp_path_factory):
    """Version 1 of the small run, as model `pictures`."""
    from tf_instdisc.serving import saved_model

    path = str(tmp_path_factory.mktemp("models") / "pictures")
    options = saved_model.options_of(small_run, batch_sizes=(1, 4))
    saved_model.export_run(small_run, path, options)
    return path
