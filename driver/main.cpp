// ptyle: simulate, check, run.
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <exception>
#include <iostream>
#include <string>
#include <unistd.h>
#include <vector>

#include <CLI/CLI.hpp>
#include <malloc.h>

#include <c10/util/Exception.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/version.h>

#include <ptyle/ops.h>

#include "driver/check/check.h"
#include "driver/config/config.h"
#include "driver/errors.h"
#include "driver/log.h"
#include "driver/run/run.h"
#include "driver/simulate/simulate.h"

namespace {

using ptyle::driver::Config;

// What operators and torch warn of is a line of the log.
struct WarningsInLog : c10::WarningHandler {
  void process(const c10::Warning& warning) override {
    ptyle::driver::log_warning() << warning.msg();
  }
};

struct ConfigArguments {
  std::string path;
  std::vector<std::string> overrides;
  Config load() const { return ptyle::driver::load_config(path, overrides); }
};

void add_config_arguments(CLI::App& command, ConfigArguments& arguments) {
  command.add_option("config", arguments.path, "the TOML file; paths in it are relative to it")
      ->required()
      ->type_name("CONFIG.toml");
  command
      .add_option("--set", arguments.overrides,
                  "replaces a key of the config, for example --set reconstruct.iterations=50")
      ->type_name("KEY=VALUE")
      ->allow_extra_args(true);
}

int parse_and_run(int argc, char** argv) {
  CLI::App app{"ptyle: ptychography on tiles"};
  app.footer("Example: ptyle simulate PbTiO3 -o pto.h5 && ptyle run pto.toml");
  app.set_version_flag("--version", std::string("ptyle ") + ptyle::version());
  app.require_subcommand(1);

  ptyle::driver::add_simulate_command(app);

  CLI::App* check = app.add_subcommand(
      "check",
      "prints the geometry that a config and its data mean, and what is doubtful about it");
  check->footer("It writes nothing. Example: ptyle check star.toml");
  ConfigArguments check_arguments;
  add_config_arguments(*check, check_arguments);
  ptyle::driver::CheckOptions check_options;
  check->add_option("--ranks", check_options.ranks, "of the run that tiles and memory are told of")
      ->check(CLI::Range(1, 1000000))
      ->capture_default_str();
  check->add_flag("--halo-error", check_options.halo_error,
                  "computes the error that a truncated halo makes in the first gradient");
  int status = 0;
  check->callback(
      [&] { status = ptyle::driver::check(check_arguments.load(), std::cout, check_options); });

  CLI::App* run = app.add_subcommand(
      "run", "reconstructs object and probe into the folder that output.folder names");
  run->footer(
      "Example: ptyle run star.toml --set reconstruct.iterations=100\n"
      "Several ranks: torchrun --no-python --nproc-per-node=4 ptyle run star.toml --set "
      "tiles.grid=auto\n"
      "Exit codes: 0 done; 1 failed while running; 2 command line or config wrong; 3 data wrong;\n"
      "75 another rank failed, start again with --resume; 130 interrupted, state saved. `ptyle run "
      "--help-config` explains every key of the config.");
  ConfigArguments run_arguments;
  ptyle::driver::RunOptions run_options;
  run->add_flag_callback(
      "--help-config",
      [] {
        ptyle::driver::print_config_help(std::cout);
        throw CLI::Success();
      },
      "explains every key of the config");
  add_config_arguments(*run, run_arguments);
  CLI::Option* resume = run->add_flag("--resume", run_options.resume,
                                      "goes on from the checkpoint in the output folder");
  run->add_flag("--overwrite", run_options.overwrite, "replaces the files of an earlier run")
      ->excludes(resume);
  run->add_option("--trace", run_options.trace,
                  "writes when each rank did what, for ui.perfetto.dev")
      ->type_name("FILE.json");
  run->callback([&] { ptyle::driver::run(run_arguments.load(), run_options); });

  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    if (error.get_exit_code() == 0) return app.exit(error);  // help, version
    std::string verb;
    for (const CLI::App* command : app.get_subcommands()) verb = " " + command->get_name();
    const std::string what =
        verb.empty() && dynamic_cast<const CLI::RequiredError*>(&error) != nullptr
            ? "must name a verb: simulate, check or run"
            : error.what();
    throw ptyle::driver::ConfigError("command line: " + what + " (`ptyle" + verb +
                                     " --help` shows how)");
  }
  return status;
}

// The launcher chooses by what is installed; whoever starts the program itself, or names other
// libraries to the loader, may meet a torch whose classes have other members.
void require_torch() {
  const auto minor = [](std::uint64_t abi) {  // a byte each: major, minor, patch
    return std::to_string(abi >> 56) + "." + std::to_string(abi >> 48 & 0xff);
  };
  const std::string compiled = minor(TORCH_ABI_VERSION);
  const std::string loaded = minor(aoti_torch_abi_version());
  if (compiled != loaded) {
    throw ptyle::driver::ConfigError("this program was compiled for torch " + compiled +
                                     ", got the libraries of torch " + loaded);
  }
}

// The environment is asked for kernels on every call of an operator, late.
void require_kernels() {
  try {
    ptyle::cpu_kernels(64, 64);
  } catch (const c10::Error& error) {
    throw ptyle::driver::ConfigError(error.what_without_backtrace());
  }
}

// What was printed may lie on a full disk.
void require_standard_output() {
  std::cout.flush();
  if (std::fflush(stdout) != 0 || std::ferror(stdout) != 0 || !std::cout) {
    throw ptyle::driver::WriteError(std::string("standard output: cannot be written: ") +
                                    std::strerror(errno));
  }
}

}  // namespace

// Where errors become messages and exit codes; a rank that waits for one that has failed is ended
// by the watch in tiles/meeting.cpp.
int main(int argc, char** argv) {
  // Blocks that are freed and allocated in every batch stay with the process: pages fresh from the
  // system cost as much as the work on them.
  mallopt(M_MMAP_THRESHOLD, 64 << 20);
  mallopt(M_TRIM_THRESHOLD, 512 << 20);
  std::signal(SIGXFSZ, SIG_IGN);  // a file that grows too large is an error of writing it
  try {
    require_torch();
    static WarningsInLog warnings;
    c10::WarningUtils::set_warning_handler(&warnings);
    require_kernels();
    const int status = parse_and_run(argc, argv);
    require_standard_output();
    return status;
  } catch (const ptyle::driver::PeerError& error) {
    ptyle::driver::log_error() << error.what();
    // A broken group's destructors may wait for ever.
    _exit(error.exit_code());
  } catch (const ptyle::driver::Error& error) {
    if (*error.what() != '\0') ptyle::driver::log_error() << error.what();
    return error.exit_code();
  } catch (const c10::Error& error) {
    ptyle::driver::log_error() << error.what_without_backtrace();
    return 1;
  } catch (const std::exception& error) {
    ptyle::driver::log_error() << error.what();
    return 1;
  }
}
