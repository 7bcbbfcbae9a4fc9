/** \file peft/peft.h
 *  All of libpeft's public interface.
 */
#ifndef PEFT_PEFT_H
#define PEFT_PEFT_H

#include "peft/adapter.h"
#include "peft/batch.h"
#include "peft/context.h"
#include "peft/cost.h"
#include "peft/dataset.h"
#include "peft/evaluate.h"
#include "peft/image.h"
#include "peft/metrics.h"
#include "peft/model.h"
#include "peft/optimizer.h"
#include "peft/prompts.h"
#include "peft/recipe.h"
#include "peft/session.h"
#include "peft/status.h"
#include "peft/tensor.h"
#include "peft/tensor_file.h"
#include "peft/tokenizer.h"
#include "peft/version.h"

#endif
