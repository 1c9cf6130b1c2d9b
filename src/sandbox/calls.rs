//! seccomp: the system calls that the daemon makes.
//!
//! Two filters, of which the stricter answer counts: one hides clone3, whose flags a filter cannot
//! see, so that the C library makes threads with clone; the other is the list.

use std::collections::BTreeMap;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter,
};

use super::{Action, SandboxError};

/// Rules by call: any of them is enough; with none the call is allowed whatever its arguments.
type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// Allowed whatever their arguments.
const ANY: &[c_long] = &[
    // Memory that is not to be run: what maps it is below.
    libc::SYS_brk,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    // Files of the store that are open, and those of the guest's memory.
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_preadv,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_lseek,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_fallocate,
    libc::SYS_ftruncate,
    libc::SYS_fstat,
    libc::SYS_statx,
    libc::SYS_newfstatat,
    libc::SYS_fstatfs,
    libc::SYS_flock,
    libc::SYS_fcntl,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    // A front-end's mappings, and sizes of block devices; Landlock says which files.
    libc::SYS_openat,
    libc::SYS_unlinkat,
    libc::SYS_readlinkat,
    // The front-end's connection, syslog's, and where commands and a new daemon find this one:
    // sockets are made below.
    libc::SYS_accept4,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_fchmod,
    libc::SYS_connect,
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
    // Kicks, calls, and waiting for them.
    libc::SYS_eventfd2,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_ppoll,
    libc::SYS_pipe2,
    // Threads and locks.
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_get_robust_list,
    libc::SYS_rseq,
    libc::SYS_set_tid_address,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_membarrier,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_restart_syscall,
    // Hidden by the other filter: the C library must get its answer.
    libc::SYS_clone3,
    // Time and chance.
    libc::SYS_clock_gettime,
    libc::SYS_clock_getres,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_gettimeofday,
    libc::SYS_getrandom,
    // Signals: the end, faults of mapped files, and panics.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_tgkill,
    // The system, as the log and panics tell of it.
    libc::SYS_uname,
    libc::SYS_getcwd,
    libc::SYS_prlimit64,
];

/// As above, where the processor has them.
#[cfg(target_arch = "x86_64")]
const ANY_HERE: &[c_long] = &[
    libc::SYS_open,
    libc::SYS_poll,
    libc::SYS_epoll_wait,
    libc::SYS_unlink,
    libc::SYS_readlink,
    libc::SYS_access,
    libc::SYS_time,
];
#[cfg(not(target_arch = "x86_64"))]
const ANY_HERE: &[c_long] = &[];

/// What making a socket takes, and giving it to a group; Landlock says where.
const SOCKETS: &[c_long] = &[
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_fchmodat,
    libc::SYS_fchownat,
];

/// As above, where the processor has them.
#[cfg(target_arch = "x86_64")]
const SOCKETS_HERE: &[c_long] = &[libc::SYS_chmod, libc::SYS_chown];
#[cfg(not(target_arch = "x86_64"))]
const SOCKETS_HERE: &[c_long] = &[];

/// Restricts this thread and those that it makes. `sockets`: whether listening sockets can be made.
pub(super) fn restrict(sockets: bool, action: Action) -> Result<(), SandboxError> {
    let refused = match action {
        Action::Kill => SeccompAction::KillProcess,
        Action::Log => SeccompAction::Log,
        Action::Trap => SeccompAction::Trap,
        Action::Allow => return Ok(()),
    };
    let failed = SandboxError::new("restricting system calls");
    let hidden = Rules::from([(libc::SYS_clone3, Vec::new())]);
    let no_call = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let hide = compile(hidden, SeccompAction::Allow, no_call).map_err(|error| failed(&error))?;
    let rules = rules(sockets).map_err(|error| failed(&error))?;
    let count = rules.len();
    let list = compile(rules, refused, SeccompAction::Allow).map_err(|error| failed(&error))?;
    apply_filter(&hide).map_err(|error| failed(&error))?;
    apply_filter(&list).map_err(|error| failed(&error))?;
    log::info!("confined to {count} system calls");
    Ok(())
}

fn compile(
    rules: Rules,
    otherwise: SeccompAction,
    listed: SeccompAction,
) -> Result<BpfProgram, seccompiler::BackendError> {
    let arch = TargetArch::try_from(std::env::consts::ARCH)?;
    SeccompFilter::new(rules, otherwise, listed, arch)?.try_into()
}

fn rules(sockets: bool) -> Result<Rules, seccompiler::BackendError> {
    let any = |calls: &[c_long]| calls.iter().map(|call| (*call, Vec::new())).collect();
    let mut rules: Rules = any(ANY);
    rules.extend::<Rules>(any(ANY_HERE));
    if sockets {
        rules.extend::<Rules>(any(SOCKETS));
        rules.extend::<Rules>(any(SOCKETS_HERE));
    }
    let number = |value: i32| u64::from(value.unsigned_abs());
    let unix = || argument(0, SeccompCmpOp::Eq, number(libc::AF_UNIX));
    rules.insert(libc::SYS_socket, vec![unix()?]);
    rules.insert(libc::SYS_socketpair, vec![unix()?]);
    // Nothing that can be written to is ever run.
    let not_run = || argument(2, SeccompCmpOp::MaskedEq(number(libc::PROT_EXEC)), 0);
    rules.insert(libc::SYS_mmap, vec![not_run()?]);
    rules.insert(libc::SYS_mprotect, vec![not_run()?]);
    // Threads, not processes.
    let thread = SeccompCmpOp::MaskedEq(number(libc::CLONE_THREAD));
    rules.insert(
        libc::SYS_clone,
        vec![argument(0, thread, number(libc::CLONE_THREAD))?],
    );
    // Where this thread runs, and no other.
    rules.insert(
        libc::SYS_sched_setaffinity,
        vec![argument(0, SeccompCmpOp::Eq, 0)?],
    );
    // The name of a thread; and what the C library may say of memory that it maps.
    let prctl = [libc::PR_SET_NAME, libc::PR_SET_VMA]
        .into_iter()
        .map(|option| argument(0, SeccompCmpOp::Eq, number(option)))
        .collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_prctl, prctl);
    // Whether a descriptor waits, and whether standard error is a terminal.
    let ioctl = [libc::FIONBIO, libc::TCGETS]
        .into_iter()
        .map(|request| argument(1, SeccompCmpOp::Eq, request))
        .collect::<Result<_, _>>()?;
    rules.insert(libc::SYS_ioctl, ioctl);
    Ok(rules)
}

/// A rule about one argument.
fn argument(
    index: u8,
    operator: SeccompCmpOp,
    value: u64,
) -> Result<SeccompRule, seccompiler::BackendError> {
    let length = SeccompCmpArgLen::Dword;
    SeccompRule::new(vec![SeccompCondition::new(index, length, operator, value)?])
}
