use super::*;

fn leaf(function: u32, eax: u32, ebx: u32, ecx: u32, edx: u32) -> kvm_cpuid_entry2 {
    kvm_cpuid_entry2 { function, eax, ebx, ecx, edx, ..kvm_cpuid_entry2::default() }
}

/// What a host with eight cores might report, on whose core 5 we happened to ask.
fn host(vendor: u32) -> CpuId {
    let level1 = kvm_cpuid_entry2 { index: 0, ..leaf(CACHES, 0x1c00_4121, 0, 0, 0) };
    let level3 = kvm_cpuid_entry2 { index: 3, ..leaf(CACHES, 0x1c03_c163, 0, 0, 0) };
    CpuId::from_entries(&[
        leaf(BASIC_MAX, 0x1f, vendor, 0, 0),
        leaf(FEATURES, 0x906ea, 0x0510_0800, 0x1, HTT | 1),
        level1,
        level3,
        leaf(TOPOLOGY, 1, 2, 0x100, 5),
        leaf(TOPOLOGY_V2, 1, 2, 0x100, 5),
        leaf(EXTENDED_FEATURES, 0, 0, CMP_LEGACY | 0x100, 0),
        leaf(ADVANCED_POWER, 0, 0, 0, INVARIANT_TSC | 1),
        leaf(ADDRESS_SIZES, 0x3030, 0, 0x4007, 0),
        leaf(TOPOLOGY_AMD, 5, 0x0105, 1, 0),
    ])
    .unwrap()
}

fn get(list: &CpuId, function: u32, index: u32) -> [u32; 4] {
    let found = list.as_slice().iter().find(|e| e.function == function && e.index == index);
    let e = found.unwrap();
    [e.eax, e.ebx, e.ecx, e.edx]
}

#[test]
fn feature_leaf_carries_the_apic_id_and_the_number_of_processors() {
    let list = Template::new(&host(AMD), 6, true).of(3);

    let [_, ebx, ecx, edx] = get(&list, FEATURES, 0);
    assert_eq!(ebx, 0x0308_0800);
    assert_eq!(ecx, X2APIC | TSC_DEADLINE | HYPERVISOR | 1);
    assert_eq!(edx, HTT | 1);
}

#[test]
fn guest_is_not_told_to_keep_time_by_a_counter_that_runs_while_it_is_paused() {
    let list = Template::new(&host(AMD), 1, true).of(0);

    assert_eq!(get(&list, ADVANCED_POWER, 0), [0, 0, 0, 1]);
}

#[test]
fn single_processor_shares_with_nobody() {
    let list = Template::new(&host(AMD), 1, false).of(0);

    let [_, ebx, ecx, edx] = get(&list, FEATURES, 0);
    assert_eq!((ebx, ecx, edx), (0x0001_0800, X2APIC | HYPERVISOR | 1, 1));
    assert_eq!(get(&list, EXTENDED_FEATURES, 0)[2], 0x100);
    assert_eq!(get(&list, ADDRESS_SIZES, 0)[2], 0);
    assert_eq!(get(&list, TOPOLOGY, 1), [0, 1, 0x201, 0]);
}

#[test]
fn extended_topology_has_thread_and_core_levels() {
    let list = Template::new(&host(0), 6, true).of(5);

    for leaf in [TOPOLOGY, TOPOLOGY_V2] {
        assert_eq!(get(&list, leaf, 0), [0, 1, 0x100, 5]);
        assert_eq!(get(&list, leaf, 1), [3, 6, 0x201, 5]);
        assert_eq!(get(&list, leaf, 2), [0, 0, 2, 5]);
    }
}

#[test]
fn amd_leaves_count_cores_and_name_this_one() {
    let list = Template::new(&host(AMD), 6, true).of(5);

    assert_eq!(get(&list, ADDRESS_SIZES, 0)[2], 0x3005);
    assert_eq!(get(&list, TOPOLOGY_AMD, 0), [5, 5, 0, 0]);
    assert_eq!(get(&list, EXTENDED_FEATURES, 0)[2], CMP_LEGACY | 0x100);
}

#[test]
fn intel_host_keeps_the_amd_leaf_as_it_was() {
    let list = Template::new(&host(0), 6, true).of(5);

    assert_eq!(get(&list, TOPOLOGY_AMD, 0), [5, 0x0105, 1, 0]);
}

#[test]
fn first_level_cache_is_a_cores_own_and_the_third_is_shared() {
    let list = Template::new(&host(0), 6, true).of(0);

    assert_eq!(get(&list, CACHES, 0)[0], 7 << 26 | 0x121);
    assert_eq!(get(&list, CACHES, 3)[0], 7 << 26 | 7 << 14 | 0x163);
}

#[test]
fn most_processors_fit_the_narrow_fields() {
    let list = Template::new(&host(AMD), 255, true).of(254);

    assert_eq!(get(&list, FEATURES, 0)[1], 0xfeff_0800);
    assert_eq!(get(&list, ADDRESS_SIZES, 0)[2], 0x80fe);
    assert_eq!(get(&list, CACHES, 0)[0] >> 26, 0x3f);
}
