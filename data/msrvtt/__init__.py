"""MSR-VTT: 10,000 clips with 20 captions each."""
