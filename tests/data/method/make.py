"""Makes the small cases in this folder from complete ones: make.py CASES MODELS. Keeps adapter_init, the values in memory and the
numbers that the tests of lib/method compare (logits before training, with the adapter merged, after training)."""
import json, os, shutil, sys
from safetensors.torch import load_file, save_file

cases, models = sys.argv[1:3]
here = os.path.dirname(os.path.abspath(__file__))
names = ['lora-qv-llama', 'lora-all-linear-llama', 'lora-bias-only-qwen2', 'lora-dora-llama', 'lora-embedding-llama', 'lora-layers-qwen3',
         'lora-mistral', 'lora-modules-to-save-llama', 'lora-patterns-llama', 'lora-regex-qwen3', 'lora-rs-qwen2']
for name in names:
    source, target = os.path.join(cases, name), os.path.join(here, name)
    shutil.rmtree(target, ignore_errors=True)
    os.makedirs(target)
    case = json.load(open(os.path.join(source, 'case.json')))
    kept = {k: case[k] for k in ('model', 'trainable', 'trainable_count', 'tolerance')}
    json.dump(kept, open(os.path.join(target, 'case.json'), 'w'), indent=1)
    shutil.copytree(os.path.join(source, 'adapter_init'), os.path.join(target, 'adapter_init'))
    shutil.copy(os.path.join(source, 'trainable_init.safetensors'), target)
    expected = load_file(os.path.join(source, 'expected.safetensors'))
    batch = load_file(os.path.join(source, 'batch.safetensors'))
    out = {k: expected[k] for k in ('logits', 'merged_logits') if k in expected}
    out |= {k: batch[k] for k in ('input_ids', 'attention_mask')}
    save_file({k: v.contiguous() for k, v in out.items()}, os.path.join(target, 'expected.safetensors'), {'format': 'pt'})
    model = os.path.join(here, 'models', case['model'])
    if not os.path.isdir(model) and not os.path.isdir(os.path.join(here, '..', 'models', case['model'])):
        os.makedirs(model)
        for file in ('config.json', 'model.safetensors'):
            shutil.copy(os.path.join(models, case['model'], file), model)
    print(name, case['model'], sorted(out))
