//! The embedded sources, compiled for the card at hand by NVRTC, which is opened when it is first needed.

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{null, null_mut};
use std::sync::OnceLock;

use backend_api::{Cause, Error, Result};
use libloading::Library;

use crate::device::Device;
use crate::functions::Key;
use crate::kernels::archive::{self, Target};
use crate::libraries::{self, Here, Missing, Places, Platform};

type Program = *mut c_void;
type Create = unsafe extern "system" fn(
    *mut Program,
    *const c_char,
    *const c_char,
    c_int,
    *const *const c_char,
    *const *const c_char,
) -> c_int;
type Compile = unsafe extern "system" fn(Program, c_int, *const *const c_char) -> c_int;
type Destroy = unsafe extern "system" fn(*mut Program) -> c_int;
type Size = unsafe extern "system" fn(Program, *mut usize) -> c_int;
type Content = unsafe extern "system" fn(Program, *mut c_char) -> c_int;
type Count = unsafe extern "system" fn(*mut c_int) -> c_int;
type Text = unsafe extern "system" fn(c_int) -> *const c_char;

/// The functions of NVRTC that are used.
struct Nvrtc {
    create: Create,
    compile: Compile,
    destroy: Destroy,
    log: (Size, Content),
    ptx: (Size, Content),
    cubin: (Size, Content),
    text: Text,
    /// Architectures that it compiles for, as `90` for compute capability 9.0.
    targets: Vec<u32>,
}

#[expect(unsafe_code, reason = "functions of a library")]
impl Nvrtc {
    /// The functions of a library that stays open.
    fn of(library: &Library) -> Result<Self, libloading::Error> {
        // SAFETY: the types are those of the functions in `nvrtc.h`.
        unsafe {
            let pair = |size: &str, content: &str| Ok((*library.get(size)?, *library.get(content)?));
            let counted = *library.get::<Count>("nvrtcGetNumSupportedArchs")?;
            let listed = *library.get::<Count>("nvrtcGetSupportedArchs")?;
            let mut count = 0;
            counted(&raw mut count);
            let mut targets = vec![0; usize::try_from(count).unwrap_or(0)];
            listed(targets.as_mut_ptr());
            Ok(Self {
                create: *library.get("nvrtcCreateProgram")?,
                compile: *library.get("nvrtcCompileProgram")?,
                destroy: *library.get("nvrtcDestroyProgram")?,
                log: pair("nvrtcGetProgramLogSize", "nvrtcGetProgramLog")?,
                ptx: pair("nvrtcGetPTXSize", "nvrtcGetPTX")?,
                cubin: pair("nvrtcGetCUBINSize", "nvrtcGetCUBIN")?,
                text: *library.get("nvrtcGetErrorString")?,
                targets: targets.into_iter().map(c_int::unsigned_abs).collect(),
            })
        }
    }

    /// Compiles `source`; an `sm_…` target gives a cubin, a `compute_…` one PTX. The error is what the compiler says.
    fn run(&self, name: &str, source: &str, options: &[String]) -> Result<Vec<u8>, String> {
        let text = |s: &str| CString::new(s).map_err(|_| "a text holds a NUL".to_owned());
        let (source, name) = (text(source)?, text(name)?);
        let texts = options.iter().map(|o| text(o)).collect::<Result<Vec<_>, _>>()?;
        let pointers: Vec<_> = texts.iter().map(|t| t.as_ptr()).collect();
        let count = c_int::try_from(pointers.len()).unwrap_or(0);
        let is_cubin = options.iter().any(|o| o.starts_with("-arch=sm_"));
        let mut program = null_mut();
        // SAFETY: all texts end with a NUL and outlive the calls; the program is destroyed once.
        unsafe {
            self.check((self.create)(&raw mut program, source.as_ptr(), name.as_ptr(), 0, null(), null()))?;
            let compiled = self.check((self.compile)(program, count, pointers.as_ptr()));
            let result = match compiled {
                Ok(()) => self.content(program, if is_cubin { self.cubin } else { self.ptx }),
                Err(code) => {
                    let log = self.content(program, self.log).unwrap_or_default();
                    let log = String::from_utf8_lossy(&log);
                    Err(format!("{code}; its log:\n{}", log.trim_end_matches(['\0', '\n'])))
                }
            };
            let _ = (self.destroy)(&raw mut program);
            result
        }
    }

    fn check(&self, code: c_int) -> Result<(), String> {
        if code == 0 {
            return Ok(());
        }
        // SAFETY: takes any code and gives a text that lives as long as the library, or null.
        let text = unsafe {
            let text = (self.text)(code);
            if text.is_null() { "?".into() } else { CStr::from_ptr(text).to_string_lossy() }
        };
        Err(format!("NVRTC answered {text} ({code})"))
    }

    /// # Safety
    /// `program` is alive, and the functions belong together.
    unsafe fn content(&self, program: Program, (size, content): (Size, Content)) -> Result<Vec<u8>, String> {
        let mut bytes = 0;
        // SAFETY: writes one integer, then as many bytes as it said.
        unsafe {
            self.check(size(program, &raw mut bytes))?;
            let mut buffer = vec![0u8; bytes];
            self.check(content(program, buffer.as_mut_ptr().cast()))?;
            Ok(buffer)
        }
    }
}

/// NVRTC for a driver of this version, opened by the first call that finds it.
fn nvrtc(driver: i32) -> Result<&'static Nvrtc> {
    static NVRTC: OnceLock<Nvrtc> = OnceLock::new();
    if let Some(nvrtc) = NVRTC.get() {
        return Ok(nvrtc);
    }
    let opened = open(driver, &libraries::places(Platform::HERE, &Here))?;
    Ok(NVRTC.get_or_init(|| opened))
}

/// The newest NVRTC among `places` whose output a driver of this version takes.
fn open(driver: i32, places: &Places) -> Result<Nvrtc> {
    let majors = libraries::majors(driver);
    let opened = libraries::open("nvrtc", majors, places, Nvrtc::of);
    opened.map(|(nvrtc, _)| nvrtc).map_err(|m| missing(majors, &m))
}

fn missing(majors: &[u32], missing: &Missing) -> Error {
    let versions = majors.iter().map(u32::to_string).collect::<Vec<_>>().join(" or ");
    let reason = format!(
        "NVRTC {versions}, which compiles kernels for this driver at run time, {}; install the CUDA toolkit or `pip install \
         nvidia-cuda-nvrtc-cu12`, or use the embedded kernels",
        missing.reason()
    );
    let searched = missing.searched.clone();
    Error::Unavailable { backend: "cuda".into(), cause: Cause::NoCompiler, reason, searched }
}

/// What NVRTC is asked for: machine code of the card where it can and is to, so that no driver is too old for its PTX; otherwise PTX
/// of the best architecture up to the target. `variant` is the target of the embedded kernel, which may be of one architecture alone.
fn arch(variant: &str, target: (u32, u32), card: (u32, u32), supported: &[u32]) -> Option<String> {
    let number = |(major, minor)| major * 10 + minor;
    let exact = if variant.ends_with('a') { "a" } else { "" };
    if target == card && supported.contains(&number(card)) {
        return Some(format!("sm_{}{exact}", number(card)));
    }
    let best = supported.iter().filter(|t| **t <= number(target)).max()?;
    exact.is_empty().then(|| format!("compute_{best}"))
}

/// Compiles a kernel for the card.
///
/// # Errors
/// [`Error::Unsupported`] for types that the kernel is not written for, [`Error::Unavailable`] without NVRTC or where it
/// does not know the target, [`Error::Backend`] with the log where it does not compile.
pub(crate) fn compile((kernel, scalar, weight): Key, device: &Device) -> Result<Vec<u8>> {
    let Target { capability: target, card } = device.target;
    let variant = archive::target(kernel, scalar, weight, device.target)?;
    let nvrtc = nvrtc(device.version)?;
    let arch = arch(variant, target, card, &nvrtc.targets).ok_or_else(|| Error::Unavailable {
        backend: "cuda".into(),
        cause: Cause::NoCompiler,
        reason: format!(
            "the NVRTC that was found compiles for {:?} and not for compute capability {}.{}; install another version of it, or \
             use the embedded kernels",
            nvrtc.targets, target.0, target.1
        ),
        searched: Vec::new(),
    })?;
    let options = [format!("-arch={arch}"), format!("-DSCALAR={scalar}"), format!("-DWEIGHT={weight}")];
    nvrtc.run(&format!("{kernel}.cu"), &archive::source(kernel)?, &options).map_err(|reason| Error::Backend {
        backend: "cuda".into(),
        op: format!("compiling kernel `{kernel}` for {arch}"),
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_card_itself_is_asked_for_where_it_is_known() {
        let known = [75, 80, 90, 100];
        let own = |variant, card| arch(variant, card, card, &known);
        assert_eq!(own("compute_50", (9, 0)).unwrap(), "sm_90");
        assert_eq!(own("compute_90a", (9, 0)).unwrap(), "sm_90a");
        assert_eq!(own("compute_50", (8, 6)).unwrap(), "compute_80");
        assert_eq!(own("compute_86a", (8, 6)), None);
        assert_eq!(own("compute_50", (5, 0)), None);
    }

    #[test]
    fn what_a_card_runs_for_an_older_one_is_no_machine_code_of_that() {
        let known = [75, 80, 90, 100];
        assert_eq!(arch("compute_80", (8, 0), (9, 0), &known).unwrap(), "compute_80");
        assert_eq!(arch("compute_50", (8, 6), (9, 0), &known).unwrap(), "compute_80");
        assert_eq!(arch("compute_90a", (9, 0), (10, 0), &known), None);
        assert_eq!(arch("compute_50", (5, 0), (9, 0), &known), None);
    }

    #[test]
    fn a_missing_compiler_is_typed_and_none_newer_than_the_driver_is_sought() {
        let nowhere = Places { by_name: false, directories: vec!["/nowhere".into()] };
        for (driver, versions, majors) in
            [(13_010, "NVRTC 13 or 12, ", &[13, 12][..]), (12_090, "NVRTC 12, ", &[12])]
        {
            let error = open(driver, &nowhere).err().unwrap();
            let text = error.to_string();
            assert!(text.contains(versions) && text.contains("pip install"), "{text}");
            let Error::Unavailable { cause: Cause::NoCompiler, searched, .. } = error else {
                panic!("{text}")
            };
            let mut sought: Vec<_> = majors.iter().map(|m| Platform::HERE.file("nvrtc", *m)).collect();
            sought.push("/nowhere".into());
            assert_eq!(searched, sought);
        }
    }

    #[test]
    #[ignore = "needs NVRTC"]
    fn errors_of_a_source_come_with_the_log() {
        let nvrtc = nvrtc(13_000).unwrap();
        let log =
            nvrtc.run("k.cu", "__global__ void k() { what; }", &["-arch=compute_90".into()]).unwrap_err();
        assert!(log.contains("k.cu(1)") && log.contains("what"), "{log}");
        let ptx =
            nvrtc.run("k.cu", "extern \"C\" __global__ void k() {}", &["-arch=compute_90".into()]).unwrap();
        assert!(String::from_utf8_lossy(&ptx).contains(".entry k"));
    }
}
